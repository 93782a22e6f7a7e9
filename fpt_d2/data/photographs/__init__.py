"""Preparation of public sets of real photographs: a download is checked whole, then written as it is registered."""
