"""Problems and prompts: every source becomes the one record `Problem`."""
