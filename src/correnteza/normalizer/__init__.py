"""The normalizer: checks each record, encodes categories, standardises numbers."""
