"""For tests of layer tools: trees and edits as values, tars made by hand, Hypothesis strategies (extra ``test``)."""
