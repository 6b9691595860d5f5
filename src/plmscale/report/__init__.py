"""The report of a study: one HTML file that says the result in words before it shows figures."""
