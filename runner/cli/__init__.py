"""Click commands, one small file each; nothing heavy is imported before it is needed."""
