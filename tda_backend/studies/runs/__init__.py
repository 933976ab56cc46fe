"""From a study to its plan, its record and its run; Ray is here."""
