"""What happens to audio: splitting, recognizing, stitching. Knows nothing of workflows or renting."""
