"""Django's usual entry: `python manage.py serve` runs the site the end-to-end tests talk to."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "garage.settings")
    execute_from_command_line(sys.argv)
