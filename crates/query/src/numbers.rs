//! Growing arrays of whole numbers that take as few bytes each as the greatest of them needs.
//!
//! A plain `Vec` is under each: its spare room beyond the length is never touched, so it costs address space but no memory.

macro_rules! widths {
    ($name:ident, $number:ty, $doc:literal, [$($variant:ident: $width:ty),+]) => {
        #[doc = $doc]
        #[derive(Debug, Clone)]
        pub(crate) enum $name {
            $(#[doc = concat!("Elements of type `", stringify!($width), "`.")] $variant(Vec<$width>),)+
        }

        impl $name {
            pub(crate) fn len(&self) -> usize {
                match self {
                    $(Self::$variant(v) => v.len(),)+
                }
            }

            pub(crate) fn bytes(&self) -> usize {
                match self {
                    $(Self::$variant(v) => std::mem::size_of_val(v.as_slice()),)+
                }
            }

            /// The number at `at`; 0 beyond the end.
            #[inline]
            pub(crate) fn get(&self, at: u32) -> $number {
                match self {
                    $(Self::$variant(v) => v.get(at as usize).map_or(0, |&n| <$number>::from(n)),)+
                }
            }

            /// Adds up the numbers at some places, only to have read them.
            pub(crate) fn touch(&self, places: &[u32]) -> u64 {
                match self {
                    $(Self::$variant(v) => {
                        places.iter().filter_map(|&at| v.get(at as usize)).fold(0, |sum, &n| sum.wrapping_add(n as u64))
                    })+
                }
            }

            /// Sets the number at `at`; what lies between the end and there becomes 0.
            #[allow(irrefutable_let_patterns, reason = "the widest element holds every number")]
            pub(crate) fn set(&mut self, at: u32, number: $number) {
                match self {
                    $(Self::$variant(v) => {
                        if let Ok(narrow) = <$width>::try_from(number) {
                            if at as usize >= v.len() {
                                if narrow == 0 {
                                    return;
                                }
                                v.resize(at as usize + 1, 0);
                            }
                            v[at as usize] = narrow;
                            return;
                        }
                    })+
                }
                self.widen(number);
                self.set(at, number);
            }

            /// Makes the elements wide enough for `number`.
            fn widen(&mut self, number: $number) {
                let width = self.width();
                // The first width that holds the number. It is wider than the one before, which did not.
                $(if size_of::<$width>() > width && <$width>::try_from(number).is_ok() {
                    let wide = (0..self.len() as u32).map(|i| self.get(i) as $width).collect();
                    *self = Self::$variant(wide);
                    return;
                })+
            }

            fn width(&self) -> usize {
                match self {
                    $(Self::$variant(_) => size_of::<$width>(),)+
                }
            }
        }
    };
}

widths!(IntVec, i64, "Signed numbers.", [I8: i8, I16: i16, I32: i32, I64: i64]);
widths!(CodeVec, u32, "Codes; 0 means none.", [U8: u8, U16: u16, U32: u32]);

impl Default for IntVec {
    fn default() -> Self {
        Self::I8(Vec::new())
    }
}

impl Default for CodeVec {
    fn default() -> Self {
        Self::U8(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_widen_and_keep_their_values() {
        let mut v = IntVec::default();
        let numbers = [0, 1, -1, 127, -128, 128, 40_000, -3_000_000_000, i64::MIN, i64::MAX];
        for (i, n) in numbers.iter().enumerate() {
            v.set(i as u32 * 3, *n);
        }
        for (i, n) in numbers.iter().enumerate() {
            assert_eq!(v.get(i as u32 * 3), *n);
            assert_eq!(v.get(i as u32 * 3 + 1), 0);
        }
        let mut c = CodeVec::default();
        for n in [1, 255, 256, 65_536, u32::MAX] {
            c.set(n % 1000, n);
            assert_eq!(c.get(n % 1000), n);
        }
        assert_eq!(c.get(0), 0);
    }
}
