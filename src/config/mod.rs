//! Arguments, environment and files become one validated [`Config`].
