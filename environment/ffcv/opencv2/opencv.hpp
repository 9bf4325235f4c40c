// Stands in for OpenCV's header of everything, which needs every OpenCV module's headers installed.
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
