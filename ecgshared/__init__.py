"""What hospital and coordinator share: records, maths, models, message types. Imports neither side."""
