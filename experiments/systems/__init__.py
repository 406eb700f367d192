"""Whatever makes music from prompts, behind one contract: prompts, and perhaps melodies -> a folder of clips."""
