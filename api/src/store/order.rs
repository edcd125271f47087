//! Orders of a list.

/// In which order tasks are listed. The order of their ids is that of their creation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// The oldest first.
    #[default]
    CreatedAsc,
    /// The newest first.
    CreatedDesc,
}

impl Order {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::CreatedAsc, Self::CreatedDesc];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CreatedAsc => "created_asc",
            Self::CreatedDesc => "created_desc",
        }
    }

    /// The order of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|order| order.as_str() == name)
    }
}
