"""Ablations: configs trained with several seeds on several datasets, kept, and set side by side."""
