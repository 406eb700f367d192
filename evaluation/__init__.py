"""From folders of audio to a report: judges, metrics, uncertainty, results and their comparison."""
