"""From images to masks in one call: `mednextv2.predict` in Python, and the verb of the same name."""
