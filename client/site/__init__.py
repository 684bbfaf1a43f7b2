"""The site file and the site's keys."""
