"""Cost: what work used, as its processes were measured, what that costs, and what it may."""
