"""What is really set, not what was asked for: an area is a thin reader, and pure checks of what it read.

A reader (`read`) collects facts and changes nothing, not even a file of locks. A check takes facts and says what they
mean.
"""
