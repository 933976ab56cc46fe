"""How good an attribution is: LDS with its bootstrap, the indicator ξ, and the choice of λ without retraining."""
