"""What the residuals of postrefined lattices say of the experiment: errors that all of them share."""
