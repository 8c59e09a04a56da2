"""Problems and prompts: every source of problems is read into the same record, `Problem`."""
