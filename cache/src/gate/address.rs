//! Which addresses a source may be reached at. Owned by the source work.
