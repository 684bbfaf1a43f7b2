"""Made hospitals in the formats that hospitals export."""
