"""The assignments' reference solutions, as the text that starters are cut from.

They are run as text, never imported. What stands between `### BEGIN SOLUTION` and
`### END SOLUTION` is left out of what students get.
"""
