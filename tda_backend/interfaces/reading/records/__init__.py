"""Rows of a study's tables as typed records: :func:`base.records` reads them, one module per topic declares them."""
