"""Who else is told how a run goes, besides its own files."""
