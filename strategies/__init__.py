"""The strategies that come with fedfuse, one a file, written as a user would write one."""
