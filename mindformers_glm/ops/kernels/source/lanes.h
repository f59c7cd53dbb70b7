// Sixteen numbers, as many registers as that takes. GCC keeps a vector of its own that is longer than a register in
// memory and passes each step of a computation through it; a pair of shorter ones stays in registers.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace glm {

constexpr int kLanes = 16;

#if defined(__AVX512F__)

typedef float Floats __attribute__((vector_size(64)));
typedef double Doubles __attribute__((vector_size(128)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Bits __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));

#else

#if defined(__AVX2__)
constexpr int kRegister = 32;  // bytes
#else
constexpr int kRegister = 16;
#endif
typedef float FloatRegister __attribute__((vector_size(kRegister)));
typedef double DoubleRegister __attribute__((vector_size(kRegister)));
typedef int32_t IntRegister __attribute__((vector_size(kRegister)));
typedef uint32_t BitsRegister __attribute__((vector_size(kRegister)));
typedef uint16_t HalfRegister __attribute__((vector_size(kRegister / 2)));
typedef float FewFloats __attribute__((vector_size(kRegister / 2)));  // as many as a register holds doubles

template <class Half>
struct Joined {
  Half low, high;

  auto operator[](int i) const {
    constexpr int kHalf = sizeof(Half) / sizeof(low[0]);
    return i < kHalf ? low[i] : high[i - kHalf];
  }
};

// What a number of a vector is, and what a comparison of such vectors gives.
template <class Vector>
using NumberOf = std::remove_cvref_t<decltype(std::declval<Vector>()[0])>;

template <class Vector>
struct Compared {
  typedef IntRegister Type;
};
template <class Half>
struct Compared<Joined<Half>> {
  typedef Joined<typename Compared<Half>::Type> Type;
};

#define GLM_EACH(op)                                                        \
  template <class Half>                                                     \
  inline Joined<Half> operator op(Joined<Half> a, Joined<Half> b) {         \
    return {a.low op b.low, a.high op b.high};                              \
  }                                                                         \
  template <class Half>                                                     \
  inline Joined<Half> operator op(Joined<Half> a, NumberOf<Half> b) {       \
    return {a.low op b, a.high op b};                                       \
  }                                                                         \
  template <class Half>                                                     \
  inline Joined<Half> operator op(NumberOf<Half> a, Joined<Half> b) {       \
    return {a op b.low, a op b.high};                                       \
  }                                                                         \
  template <class Half, class Other>                                        \
  inline Joined<Half>& operator op## = (Joined<Half> & a, const Other& b) { \
    return a = a op b;                                                      \
  }
GLM_EACH(+)
GLM_EACH(-)
GLM_EACH(*)
GLM_EACH(/)
GLM_EACH(&)
GLM_EACH(|)
GLM_EACH(^)
GLM_EACH(<<)
GLM_EACH(>>)
#undef GLM_EACH

#define GLM_COMPARE(op)                                                                        \
  template <class Half>                                                                        \
  inline typename Compared<Joined<Half>>::Type operator op(Joined<Half> a, Joined<Half> b) {   \
    typedef typename Compared<Half>::Type Part;                                                \
    return {(Part)(a.low op b.low), (Part)(a.high op b.high)};                                 \
  }                                                                                            \
  template <class Half>                                                                        \
  inline typename Compared<Joined<Half>>::Type operator op(Joined<Half> a, NumberOf<Half> b) { \
    typedef typename Compared<Half>::Type Part;                                                \
    return {(Part)(a.low op b), (Part)(a.high op b)};                                          \
  }
GLM_COMPARE(<)
GLM_COMPARE(>)
GLM_COMPARE(<=)
GLM_COMPARE(>=)
GLM_COMPARE(!=)
#undef GLM_COMPARE

template <class Half>
inline Joined<Half> operator-(Joined<Half> a) {
  return {-a.low, -a.high};
}

#if defined(__AVX2__)
template <class Register>
using Sixteen = Joined<Register>;
#else
template <class Register>
using Sixteen = Joined<Joined<Register>>;
#endif
typedef Sixteen<FloatRegister> Floats;
typedef Joined<Sixteen<DoubleRegister>> Doubles;
typedef Sixteen<IntRegister> Ints;
typedef Sixteen<BitsRegister> Bits;
typedef Sixteen<HalfRegister> Halves;

#endif

template <class Vector>
inline constexpr bool kIsJoined = requires(Vector v) { v.low; };

// A vector of as many numbers from memory, and back.
template <class Vector>
inline Vector read(const void* p) {
  if constexpr (kIsJoined<Vector>) {
    typedef decltype(Vector::low) Half;
    return {read<Half>(p), read<Half>((const char*)p + sizeof(Half))};
  } else {
    Vector v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
}

template <class Vector>
inline void write(void* p, Vector v) {
  if constexpr (kIsJoined<Vector>) {
    write(p, v.low);
    write((char*)p + sizeof v.low, v.high);
  } else {
    std::memcpy(p, &v, sizeof v);
  }
}

// The same bits as numbers of another kind.
template <class To, class From>
inline To bits_as(From v) {
  if constexpr (kIsJoined<From>) {
    typedef decltype(To::low) Half;
    return {bits_as<Half>(v.low), bits_as<Half>(v.high)};
  } else {
    return (To)v;
  }
}

// Each number as one of another kind.
template <class To, class From>
inline To convert(From v) {
  if constexpr (kIsJoined<From>) {
    typedef decltype(To::low) Half;
    return {convert<Half>(v.low), convert<Half>(v.high)};
#if !defined(__AVX512F__)
  } else if constexpr (kIsJoined<To>) {  // one register of floats, two of doubles
    FewFloats parts[2];
    std::memcpy(parts, &v, sizeof v);
    return {__builtin_convertvector(parts[0], DoubleRegister), __builtin_convertvector(parts[1], DoubleRegister)};
#endif
  } else {
    return __builtin_convertvector(v, To);
  }
}

#if !defined(__AVX512F__)
inline FloatRegister to_floats(Joined<DoubleRegister> v) {
  FewFloats parts[2] = {__builtin_convertvector(v.low, FewFloats), __builtin_convertvector(v.high, FewFloats)};
  return read<FloatRegister>(parts);
}
template <class Half>
inline Joined<decltype(to_floats(std::declval<Half>()))> to_floats(Joined<Half> v) {
  return {to_floats(v.low), to_floats(v.high)};
}
#else
inline Floats to_floats(Doubles v) { return __builtin_convertvector(v, Floats); }
#endif

// a where `where` is -1, b where it is 0.
template <class Where, class Vector>
inline Vector choose(Where where, Vector a, Vector b) {
  if constexpr (kIsJoined<Vector>) {
    return {choose(where.low, a.low, b.low), choose(where.high, a.high, b.high)};
  } else {
    return where ? a : b;
  }
}

#if defined(__clang__)
#define GLM_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#elif defined(__AVX512F__)
#define GLM_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Ints{__VA_ARGS__})
#else
#define GLM_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, IntRegister{__VA_ARGS__})
#endif
#if defined(__AVX512F__)
#define GLM_FIRST 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define GLM_LAST 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif defined(__AVX2__)
#define GLM_FIRST 0, 8, 1, 9, 2, 10, 3, 11
#define GLM_LAST 4, 12, 5, 13, 6, 14, 7, 15
#else
#define GLM_FIRST 0, 4, 1, 5
#define GLM_LAST 2, 6, 3, 7
#endif

// The first or the last halves of two vectors, a number of each in turn.
template <class Vector>
inline Vector last_halves(Vector a, Vector b);

template <class Vector>
inline Vector first_halves(Vector a, Vector b) {
  if constexpr (kIsJoined<Vector>) {
    return {first_halves(a.low, b.low), last_halves(a.low, b.low)};
  } else {
    return GLM_SHUFFLE(a, b, GLM_FIRST);
  }
}

template <class Vector>
inline Vector last_halves(Vector a, Vector b) {
  if constexpr (kIsJoined<Vector>) {
    return {first_halves(a.high, b.high), last_halves(a.high, b.high)};
  } else {
    return GLM_SHUFFLE(a, b, GLM_LAST);
  }
}
#undef GLM_SHUFFLE
#undef GLM_FIRST
#undef GLM_LAST

}  // namespace glm
