"""What both the language model and the evaluation hear in a recording: chroma, stems, embeddings."""
