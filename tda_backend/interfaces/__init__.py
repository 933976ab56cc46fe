"""What people and pages hold: reading a study, verdicts on the papers, the command line."""
