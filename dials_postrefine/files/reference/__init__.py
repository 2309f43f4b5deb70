"""Reference intensities: reflection files, atomic models, merged data."""
