"""The commands of ``fedfuse``, one a file: `add` describes its words, `execute` does what they say."""
