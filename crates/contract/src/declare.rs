//! The macros that declare structures, enumerations and operations once.

/// Declares a structure: the Rust type, its [`StructDef`](crate::StructDef), how it is read and how it is written.
///
/// With `union TAG { CASE => field, … }` the field of the tag's case must be set and those of other cases must not.
#[macro_export]
macro_rules! structure {
    (
        $(#[doc = $doc:literal])*
        pub struct $rust:ident = $name:literal $(union $tag:ident { $($case:ident => $member:ident),+ $(,)? })? {
            $( $(#[doc = $field_doc:literal])* $field:ident $(as $wire:literal)? : $ty:ty ),* $(,)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $rust {
            $( $(#[doc = $field_doc])* pub $field: $ty, )*
        }

        impl $rust {
            /// The structure's declaration.
            pub const DEF: $crate::StructDef = $crate::StructDef {
                name: $name,
                doc: concat!($($doc, "\n"),*),
                fields: &[
                    $( $crate::FieldDef {
                        name: $crate::structure!(@wire $field $($wire)?),
                        doc: concat!($($field_doc, "\n"),*),
                        ty: <$ty as $crate::Wire>::ty,
                    }, )*
                ],
                union: $crate::structure!(@union $($tag { $($case => $member),+ })?),
            };
        }

        impl $crate::Wire for $rust {
            fn ty() -> $crate::Type {
                static DEF: $crate::StructDef = $rust::DEF;
                $crate::Type::Struct(&DEF)
            }

            #[allow(unused_mut, reason = "a structure may have no fields")]
            fn decode(data: $crate::Data, at: &$crate::Place<'_>) -> Result<Self, $crate::Fault> {
                let mut fields = $crate::wire::fields_of(data, $name, at)?;
                let value = Self {
                    $( $field: $crate::wire::take_field(&mut fields, $crate::structure!(@wire $field $($wire)?), at)?, )*
                };
                $crate::wire::refuse_rest(&fields, at)?;
                $({
                    let tag = value.$tag.name();
                    $( $crate::declare::check_case(at, stringify!($tag), tag, stringify!($case), stringify!($member),
                        $crate::Wire::is_unset(&value.$member))?; )+
                })?
                Ok(value)
            }

            #[allow(unused_variables, reason = "a structure may have no fields")]
            fn encode(&self, w: &mut dyn $crate::Writer) {
                w.begin_struct($name);
                $(
                    if w.field($crate::structure!(@wire $field $($wire)?), $crate::Wire::is_unset(&self.$field)) {
                        $crate::Wire::encode(&self.$field, w);
                    }
                )*
                w.end_struct();
            }
        }
    };
    (@wire $field:ident $wire:literal) => { $wire };
    (@wire $field:ident) => { stringify!($field) };
    (@union) => { None };
    (@union $tag:ident { $($case:ident => $member:ident),+ }) => {
        Some($crate::UnionDef { tag: stringify!($tag), cases: &[$((stringify!($case), stringify!($member))),+] })
    };
}

/// Checks one line of a union's rule.
///
/// # Errors
/// [`Fault::Invalid`](crate::Fault) when the field of the tag's case is missing or one of another case is set.
pub fn check_case(
    at: &crate::Place<'_>,
    tag_name: &str,
    tag: &str,
    case: &str,
    member: &'static str,
    is_unset: bool,
) -> Result<(), crate::Fault> {
    let here = at.field(member);
    match (tag == case, is_unset) {
        (true, true) => Err(here.invalid("lockstep.input.union", format!("{tag_name} {tag} demands this field"))),
        (false, false) => {
            Err(here.invalid("lockstep.input.union", format!("{tag_name} is {tag}: this field belongs to {case}")))
        }
        _ => Ok(()),
    }
}

/// Declares an enumeration: the Rust type and its [`EnumDef`](crate::EnumDef).
#[macro_export]
macro_rules! enumeration {
    (
        $(#[doc = $doc:literal])*
        pub enum $rust:ident = $name:literal {
            $( $(#[doc = $constant_doc:literal])* $constant:ident = $text:literal ),+ $(,)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $rust {
            $( $(#[doc = $constant_doc])* $constant, )+
        }

        impl $rust {
            /// Every constant.
            pub const ALL: &'static [Self] = &[$(Self::$constant),+];

            /// The constant's name on the wire.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$constant => $text, )+ }
            }

            /// The constant of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $( $text => Some(Self::$constant), )+ _ => None }
            }
        }

        impl $crate::Wire for $rust {
            fn ty() -> $crate::Type {
                static DEF: $crate::EnumDef =
                    $crate::EnumDef { name: $name, doc: concat!($($doc, "\n"),*), constants: &[$($text),+] };
                $crate::Type::Enum(&DEF)
            }

            fn decode(data: $crate::Data, at: &$crate::Place<'_>) -> Result<Self, $crate::Fault> {
                let text = <String as $crate::Wire>::decode(data, at)?;
                let text = if at.encoding == $crate::Encoding::Xml { text.trim() } else { &*text };
                Self::from_name(text).ok_or_else(|| {
                    let known = [$($text),+].join(", ");
                    at.invalid("lockstep.input.enum", format!("{:?} is none of {known}", text.chars().take(80).collect::<String>()))
                })
            }

            fn encode(&self, w: &mut dyn $crate::Writer) {
                w.string(self.name());
            }
        }
    };
}
