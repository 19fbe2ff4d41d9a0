//! The link seam.
