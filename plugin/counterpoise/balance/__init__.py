"""Losses, class weights and sampling: pure functions on tensors, torch only."""
