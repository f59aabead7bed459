"""The learner: what a model is, how it predicts, and how it learns from one batch."""
