//! Declares wire enumerations and layout checks once each.

/// An open enumeration: a newtype over the wire integer with a named constant for each known value. Unknown values
/// survive a round trip and print as hexadecimal.
macro_rules! open_enum {
    (
        $(#[$meta:meta])*
        pub struct $name:ident($repr:ty) {
            $( $(#[$vmeta:meta])* $variant:ident = $value:expr, $text:literal; )*
        }
    ) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
        )]
        #[repr(transparent)]
        pub struct $name(pub $repr);

        impl $name {
            $( $(#[$vmeta])* #[doc = concat!(" (", $text, ")")] pub const $variant: Self = Self($value); )*

            /// The name the specification gives this value, or `None` for one that this crate does not know.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                #[allow(unreachable_patterns, reason = "command sets share code points")]
                match self.0 {
                    $( $value => Some($text), )*
                    _ => None,
                }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "{:#04x}", self.0),
                }
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.name() {
                    Some(name) => write!(f, concat!(stringify!($name), "({:#04x} {})"), self.0, name),
                    None => write!(f, concat!(stringify!($name), "({:#04x})"), self.0),
                }
            }
        }

        impl From<$repr> for $name {
            fn from(value: $repr) -> Self {
                Self(value)
            }
        }

        impl From<$name> for $repr {
            fn from(value: $name) -> Self {
                value.0
            }
        }
    };
}

/// Compile-time proof that a wire structure has the size and the field offsets that the specification gives.
macro_rules! assert_layout {
    ($name:ty, $size:expr $(, $field:ident @ $offset:expr)* $(,)?) => {
        const _: () = {
            assert!(core::mem::size_of::<$name>() == $size);
            assert!(core::mem::align_of::<$name>() == 1);
            $( assert!(core::mem::offset_of!($name, $field) == $offset); )*
        };
    };
}

/// Named bit ranges of a transparent integer newtype `$name(pub $repr)`: a getter and a `with_` builder for each field
/// (`name / with_name: u16 = low, width;`) and for each single bit (`name / with_name = bit;`).
///
/// Every range is proven at compile time to fit the integer and the field's type. A builder keeps the low `width`
/// bits of its argument; a debug build asserts that nothing was cut off.
macro_rules! bit_fields {
    (
        $name:ident($repr:ty)
        fields { $( $(#[$fmeta:meta])* $get:ident / $with:ident: $ty:ty = $low:literal, $width:literal; )* }
        bits { $( $(#[$bmeta:meta])* $bget:ident / $bwith:ident = $bit:literal; )* }
    ) => {
        const _: () = {
            $( assert!($width > 0 && $low + $width <= <$repr>::BITS && $width <= <$ty>::BITS); )*
            $( assert!($bit < <$repr>::BITS); )*
        };

        impl $name {
            $(
                $(#[$fmeta])*
                #[must_use]
                pub const fn $get(self) -> $ty {
                    ((self.0 >> $low) & (<$repr>::MAX >> (<$repr>::BITS - $width))) as $ty
                }

                #[doc = concat!("The same value with [`Self::", stringify!($get), "`] replaced.")]
                #[must_use]
                pub const fn $with(self, value: $ty) -> Self {
                    let mask = <$repr>::MAX >> (<$repr>::BITS - $width);
                    debug_assert!(value as $repr <= mask);
                    Self(self.0 & !(mask << $low) | (value as $repr & mask) << $low)
                }
            )*
            $(
                $(#[$bmeta])*
                #[must_use]
                pub const fn $bget(self) -> bool {
                    self.0 >> $bit & 1 != 0
                }

                #[doc = concat!("The same value with [`Self::", stringify!($bget), "`] replaced.")]
                #[must_use]
                pub const fn $bwith(self, value: bool) -> Self {
                    Self(self.0 & !(1 << $bit) | (value as $repr) << $bit)
                }
            )*
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("raw", &format_args!("{:#x}", self.0))
                    $( .field(stringify!($get), &self.$get()) )*
                    $( .field(stringify!($bget), &self.$bget()) )*
                    .finish()
            }
        }

        impl From<$repr> for $name {
            fn from(value: $repr) -> Self {
                Self(value)
            }
        }

        impl From<$name> for $repr {
            fn from(value: $name) -> Self {
                value.0
            }
        }
    };
}

/// `zeroed()` and `Default` for wire structures whose reserved arrays are too long for the derive.
macro_rules! zeroed {
    ($($name:ident),* $(,)?) => {$(
        impl $name {
            /// All bytes zero.
            #[must_use]
            pub fn zeroed() -> Self {
                zerocopy::FromZeros::new_zeroed()
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::zeroed()
            }
        }
    )*};
}

/// `Debug` with the meaning of the fields and without the reserved bytes.
macro_rules! impl_debug {
    ($name:ident, $this:ident => { $($field:ident: $value:expr),* $(,)? }) => {
        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                let $this = self;
                f.debug_struct(stringify!($name))
                    $( .field(stringify!($field), &$value) )*
                    .finish_non_exhaustive()
            }
        }
    };
}

/// Conversions between a 64-byte command view and [`crate::Sqe`].
macro_rules! command_view {
    ($name:ident) => {
        impl $name {
            /// The view of `sqe`. Opcode and command type are not checked: the caller dispatched on them.
            #[must_use]
            pub fn from_sqe(sqe: &crate::Sqe) -> Self {
                zerocopy::transmute!(*sqe)
            }

            /// The queue entry that this view shows.
            #[must_use]
            pub fn to_sqe(&self) -> crate::Sqe {
                zerocopy::transmute!(*self)
            }
        }

        impl From<$name> for crate::Sqe {
            fn from(command: $name) -> Self {
                command.to_sqe()
            }
        }
    };
}

#[cfg(test)]
#[allow(unreachable_pub, reason = "the macros make public items")]
mod tests {
    #[derive(Clone, Copy, PartialEq, Eq)]
    struct Sample(u32);

    bit_fields! {
        Sample(u32)
        fields {
            low / with_low: u8 = 0, 4;
            middle / with_middle: u16 = 4, 12;
            high / with_high: u16 = 16, 16;
        }
        bits {
            first / with_first = 0;
            last / with_last = 31;
        }
    }

    #[test]
    fn fields_do_not_touch_each_other() {
        let s = Sample(0).with_middle(0xfff);
        assert_eq!(s.0, 0x0000_fff0);
        let s = s.with_high(0x8001).with_low(0xa).with_middle(0x123);
        assert_eq!(s.0, 0x8001_123a);
        assert_eq!((s.low(), s.middle(), s.high()), (0xa, 0x123, 0x8001));
        assert!(s.last() && !s.first());
        assert_eq!(s.with_last(false).with_first(true).0, 0x0001_123b);
    }

    #[test]
    fn whole_width_field_and_debug() {
        #[derive(Clone, Copy)]
        struct Whole(u64);
        bit_fields! { Whole(u64) fields { all / with_all: u64 = 0, 64; } bits {} }
        assert_eq!(Whole(0).with_all(u64::MAX).all(), u64::MAX);
        assert_eq!(format!("{:?}", Whole(5)), "Whole { raw: 0x5, all: 5 }");
    }
}
