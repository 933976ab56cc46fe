"""The verbs of ``tda``, in the order of its help. What a verb does is in its module, imported when it is typed."""

from __future__ import annotations

from tda_backend.interfaces.cli.verb import Verb

VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb("run", "compute a study; finished steps are never computed again", "tda run mnist-mlp --quick"),
        Verb("plan", "what a study would compute and what that costs; starts nothing", "tda plan mnist-mlp"),
        Verb("machine", "how fast this machine computes; for plans made elsewhere", "tda machine --json"),
        Verb("demo", "open the dashboard and compute the embedded study beside it", "tda demo --port 8600"),
        Verb("serve", "open the dashboard", "tda serve --port 8600"),
        Verb("stop", "end the dashboard of a workspace; runs go on", "tda stop --db workspace/catalogue.duckdb"),
        Verb("studies", "list the studies of a catalogue with status and disk use", "tda studies", only_reads=True),
        Verb(
            "show",
            "show a study: configurations, LDS, what each step cost",
            "tda show mnist-mlp --json",
            only_reads=True,
        ),
        Verb(
            "select",
            "λ* with its ξ, the quantile baselines, LDS and regret",
            "tda select mnist-mlp --json",
            only_reads=True,
        ),
        Verb("papers", "the papers' claims and whether our figures show them", "tda papers --json"),
        Verb(
            "export",
            "write a study's results as small files",
            "tda export mnist-mlp --to parquet --out results",
            only_reads=True,
        ),
        Verb("check", "check that a task keeps the contract", "tda check my_task.py:factory"),
        Verb("doctor", "check versions, device, disk, artifacts and catalogue", "tda doctor --repair"),
        Verb("verify", "compute a sample of a study's steps again and compare", "tda verify mnist-mlp --steps 5"),
        Verb("backup", "copy a workspace, also while it is used", "tda backup workspace-backup.tar"),
        Verb("restore", "bring a backup back, also while the workspace is used", "tda restore workspace-backup.tar"),
        Verb("rebuild", "make the catalogue again from the artifacts", "tda rebuild --db workspace/catalogue.duckdb"),
        Verb("rm", "remove a study and the artifacts that only it uses", "tda rm mnist-mlp-quick"),
        Verb("methods", "list the attribution methods", "tda methods"),
    )
}
