//! Where the memory of a view goes.

use serde::Serialize;

/// Memory of a view, by type.
#[derive(Debug, Clone, Default, Serialize)]
pub struct MemoryReport {
    /// The types that have resources.
    pub types: Vec<TypeMemory>,
}

/// Memory of one type's resources, in bytes. Room that was set aside and never touched is not counted.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TypeMemory {
    /// The type.
    pub resource_type: String,
    /// How many resources there are.
    pub resources: usize,
    /// Ids, positions, and what finds a resource by its id.
    pub ids: usize,
    /// Texts of properties.
    pub texts: usize,
    /// Other values of properties.
    pub values: usize,
    /// Indexes that queries have built.
    pub indexes: usize,
}

impl TypeMemory {
    /// All together, in bytes.
    pub fn bytes(&self) -> usize {
        self.ids + self.texts + self.values + self.indexes
    }
}

impl MemoryReport {
    /// All types together, in bytes.
    pub fn bytes(&self) -> usize {
        self.types.iter().map(TypeMemory::bytes).sum()
    }
}
