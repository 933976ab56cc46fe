"""Steps, their keys, plans and the executor; no kind of step is known here."""
