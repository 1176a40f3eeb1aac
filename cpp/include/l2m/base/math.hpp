#pragma once

namespace l2m {

// Elementary functions with the same bits on every processor and compiler: each is a fixed sequence of double
// additions, multiplications and divisions. Those of the standard library differ between platforms. The errors below
// are bounds on the relative error, checked in the tests against functions of higher precision.

/// Return the natural logarithm. @param x  positive and finite. Error: 2^-51.
double log(double x);

/// Return the exponential; 0 below -745.2, infinity above 709.7. Error: 2^-50, or half the smallest double if larger.
double exp(double x);

/// Return exp(x) - 1, without cancellation near 0. Error: 2^-49.
double expm1(double x);

/// Return x to the power of y. Error: 2^-42, or half the smallest double if larger.
/// @param x  in [0, 1].   @param y  positive; infinity gives 0 for x < 1, and 1 for x == 1.
double pow(double x, double y);

}  // namespace l2m
