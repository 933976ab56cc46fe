"""Studies: their files, plans, execution, jobs, and the public interface for scripts and pages."""
