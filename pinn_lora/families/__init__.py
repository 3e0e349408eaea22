"""Families of PDEs: which member is reached from which, solving them, and the page that shows them."""
