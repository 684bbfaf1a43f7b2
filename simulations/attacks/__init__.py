"""What a coordinator who does not play fair gets from one hospital, with its protections and without them."""
