"""What the unit tests say of totals, on PostgreSQL."""

from tests.unit.test_cost_totals import test_totals_are_what_rows_add_up_to as test_totals_are_what_rows_add_up_to
