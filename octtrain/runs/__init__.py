"""Run folders: what a training leaves behind, what its model was trained on, and where runs are kept."""
