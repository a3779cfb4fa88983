"""The name of the file that says how many steps a stage that trains will have. Imports nothing heavy."""

PROGRESS = "progress.json"
