"""Who thinks: models and other minds behind one small Protocol. Nothing here knows about protocols, steps or policy."""
