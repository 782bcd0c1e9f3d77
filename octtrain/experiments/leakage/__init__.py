"""Split by image against split by patient: how far a split by image overestimates the same model.

The experiment of Tampu et al., Sci Data 9:580 (2022), on any folder of shards. All images are pooled, each once, and
the same model is trained equally long on equally many of them twice: once a fold of whole patients is held out, once
as many images of each class drawn one by one, so that most of their patients are in training too. The difference
between the two results is the inflation. Part of it is that a split by image also trains on more patients.
"""
