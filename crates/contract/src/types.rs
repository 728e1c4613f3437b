//! Declarations of types: what OpenAPI and introspection are made from.

/// A type of the contract. Types that hold others hold how to get them, since they may be recursive.
#[derive(Debug, Clone, Copy)]
pub enum Type {
    /// `true` or `false`.
    Boolean,
    /// A signed whole number of 64 bits.
    Long,
    /// A finite number.
    Double,
    /// Text.
    String,
    /// Text that must not be logged.
    Secret,
    /// An instant as text.
    DateTime,
    /// Bytes.
    Binary,
    /// Any value.
    Opaque,
    /// No value.
    Void,
    /// A value or none.
    Optional(fn() -> Type),
    /// Values in order.
    List(fn() -> Type),
    /// Values by string keys.
    Map(fn() -> Type),
    /// One of a few names.
    Enum(&'static EnumDef),
    /// Named fields.
    Struct(&'static StructDef),
}

/// An enumeration.
#[derive(Debug)]
pub struct EnumDef {
    /// The canonical name.
    pub name: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// The names of the constants.
    pub constants: &'static [&'static str],
}

/// A structure.
#[derive(Debug)]
pub struct StructDef {
    /// The canonical name.
    pub name: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// The fields in the order in which they are written.
    pub fields: &'static [FieldDef],
    /// When the structure is a union.
    pub union: Option<UnionDef>,
}

/// A field of a structure.
#[derive(Debug)]
pub struct FieldDef {
    /// The canonical name.
    pub name: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// Its type.
    pub ty: fn() -> Type,
}

/// The rule of a union: which field goes with which constant of the discriminator.
#[derive(Debug, Clone, Copy)]
pub struct UnionDef {
    /// The field that decides.
    pub tag: &'static str,
    /// The constant and the field it demands; all other listed fields must be unset.
    pub cases: &'static [(&'static str, &'static str)],
}
