"""The model: text encoder, interactor, prompter, SAM."""
