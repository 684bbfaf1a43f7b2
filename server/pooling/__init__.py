"""Sites' answers into one: weights, sums, curves, Cox fits."""
